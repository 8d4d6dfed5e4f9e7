#!/bin/bash
# All stages of words and pen; what exists is not made again. With other ears: HEARD=folder bash run_all.sh (see README.md).
set -e
cd "$(dirname "$0")"
export PYTHONPATH=${PYTHONPATH:-src} OMP_NUM_THREADS=1
PY=${PY:-../venv-pen/bin/python} HEARD=${HEARD:-composed40k} WORDS=${WORDS:-clap_text2} OUT=${OUT:-final4} LINK=${LINK:-}
[ -f text/audiocaps_train.npy ] || $PY minilm.py
[ -f phrases.json ] || $PY event_words.py
[ -f text/bank.npy ] || $PY bank_captions.py
[ -d tokenizer ] || $PY tokenizer.py
[ -f $WORDS/training.json ] || $PY train_words.py --output $WORDS --steps 4400 --seed 1
$PY train_pen.py --output pen_text --steps 1800
$PY train_pen.py --start pen_text/state.pt --words $WORDS --steps 2000 --rate 1.5e-3 --output pen_text2 --seed 2
if [ $HEARD = composed40k ] && [ ! -f $HEARD/audio.npy ]; then  # a stand-in for the ears
    $PY crossfit.py
    $PY compose_ears.py --scenes 40000 --output $HEARD
fi
mkdir -p $OUT
$PY embed_heard.py $HEARD $HEARD/validation-*
through=""
if [ -n "$LINK" ]; then  # LINK=1: texts and scenes go through a link
    [ -f $OUT/cache/manifest.json ] || $PY make_cache.py --heard $HEARD --words $WORDS --output $OUT/cache
    $PY train_link.py cache=$OUT/cache output=$OUT/link | tee $OUT/link.txt
    through="--link $OUT/link/link"
fi
$PY train_pen.py --start pen_text2/state.pt --heard $HEARD --heard-share 0.75 --words $WORDS $through --steps ${STEPS:-2000} --rate 1e-3 --output $OUT/pen
$PY measure.py --state $OUT/pen/state.pt $through --sets $HEARD/validation-* --output $OUT/measured.json | tee $OUT/measured.txt
$PY fit_scores.py --state $OUT/pen/state.pt --words $WORDS $through --sets $HEARD/validation-single $HEARD/validation-overlap $HEARD/validation-sequence --output $OUT/calibration.json | tee $OUT/scores.txt
$PY assemble.py --words $WORDS --state $OUT/pen/state.pt $through --output $OUT/pipeline
