"""Captions a recording with diffusion-link-hf: the app of a Space, which also runs alone (``python app.py``)."""

import os

import gradio as gr

from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkError

MODEL = "tiny"


def load() -> AudioCaptionPipeline:
    """The pipeline; a private or gated one needs the secret HF_TOKEN."""
    local = {} if MODEL == "tiny" else {"token": os.environ.get("HF_TOKEN")}
    return AudioCaptionPipeline.from_pretrained(MODEL, **local)


def make_app(pipeline: AudioCaptionPipeline) -> gr.Interface:
    """The interface: a recording in, one line per ten seconds out."""

    def caption(path: str | None) -> str:
        if path is None:
            raise gr.Error("Upload or record a sound first.")
        try:
            (segments,) = pipeline(path).segments
        except DiffusionLinkError as error:
            raise gr.Error(str(error)) from error
        if len(segments) == 1:
            return segments[0].text
        return "\n".join(f"{segment.start:g}–{segment.end:g} s: {segment.text}" for segment in segments)

    return gr.Interface(
        fn=caption,
        inputs=gr.Audio(type="filepath", sources=["upload", "microphone"], label="Recording"),
        outputs=gr.Textbox(label="Caption"),
        title="What does it sound like?",
        description=f"Captioned by {MODEL}. A sound that it does not know gets the caption of the most similar one.",
        flagging_mode="never",
    )


if __name__ == "__main__":
    make_app(load()).launch()
