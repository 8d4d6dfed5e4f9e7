"""The paper's own figures (arXiv 2510.11330), which reports show beside the measured ones."""

# Table 1: mean cosine with the real text on the AudioCaps test set, by our name of the method.
TABLE_1 = {
    "identity": {"matched_audio": 0.486, "matched_text": 1.000, "unmatched_audio": 0.030, "unmatched_text": 0.098},
    "centering": {"matched_audio": 0.547, "matched_text": 1.000, "unmatched_audio": 0.092, "unmatched_text": 0.158},
    "diffusion-bridge": {
        "matched_audio": 0.528,
        "matched_text": 0.999,
        "unmatched_audio": 0.000,
        "unmatched_text": 0.002,
    },
    "diffgap": {"matched_audio": 0.110, "matched_text": 0.334, "unmatched_audio": 0.007, "unmatched_text": 0.043},
    "diffusion-link": {
        "matched_audio": 0.688,
        "matched_text": 0.945,
        "unmatched_audio": 0.000,
        "unmatched_text": 0.001,
    },
}
TABLE_1_NAMES = {
    "identity": "CLAP",
    "centering": "C3",
    "diffusion-bridge": "Diffusion-Bridge",
    "diffgap": "DiffGAP",
    "diffusion-link": "Diffusion-Link",
}

# Table 2: matched cosine of Diffusion-Link, audio-driven, by s* (five steps, noised input).
TABLE_2 = {100: 0.688, 200: 0.654, 300: 0.596, 400: 0.510, 500: 0.404}

# Tables 3 and 4: captioning on the AudioCaps test set, as fractions, by our name of the method ("none": no bridge).
TABLE_3 = {
    "none": {"meteor": 0.212, "cider_d": 0.480, "spice": 0.144, "spider": 0.312},
    "diffusion-bridge": {"meteor": 0.233, "cider_d": 0.626, "spice": 0.165, "spider": 0.395},
    "diffusion-link": {"meteor": 0.242, "cider_d": 0.732, "spice": 0.175, "spider": 0.454},
}
TABLE_4 = {
    "none": {"meteor": 0.250, "cider_d": 0.769, "spice": 0.186, "spider": 0.477},
    "diffusion-bridge": {"meteor": 0.252, "cider_d": 0.771, "spice": 0.180, "spider": 0.474},
    "diffusion-link": {"meteor": 0.256, "cider_d": 0.825, "spice": 0.189, "spider": 0.507},
}
# What they are compared with there: other systems, which read one embedding or (T×D) a sequence of features, and how
# many samples from elsewhere they use.
TABLE_3_OTHERS = {
    "ZerAuCap": {"meteor": 0.123, "cider_d": 0.281, "spice": 0.086, "spider": 0.183, "external": 527},
    "DRCap (embedding-level retrieval only)": {
        "meteor": 0.218,
        "cider_d": 0.595,
        "spice": 0.157,
        "spider": 0.376,
        "external": 450_000,
    },
    "Zhang et al. (soft + hard prompts)": {
        "meteor": 0.220,
        "cider_d": 0.644,
        "spice": 0.156,
        "spider": 0.400,
        "external": 0,
    },
    "WSAC": {"meteor": 0.241, "cider_d": 0.633, "spice": 0.173, "spider": 0.403, "external": 46_000},
}
TABLE_4_OTHERS = {
    "Prefix AAC (T×D)": {"meteor": 0.240, "cider_d": 0.733, "spice": 0.177, "spider": 0.455, "external": 0},
    "RECAP (T×D)": {"meteor": 0.256, "cider_d": 0.751, "spice": 0.186, "spider": 0.471, "external": 600_000},
    "EnCLAP-large (T×D)": {"meteor": 0.255, "cider_d": 0.803, "spice": 0.188, "spider": 0.495, "external": 0},
    "CLAP-ART (T×D)": {"meteor": 0.256, "cider_d": 0.807, "spice": 0.188, "spider": 0.498, "external": 0},
}
