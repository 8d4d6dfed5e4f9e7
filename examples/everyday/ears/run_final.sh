# The heads that ship: as work/three, of the validation origins too (their figures are those of work/three).
cd "$(dirname "$0")"; export OMP_NUM_THREADS=1; PY=${PY:-runs/everyday/venv/bin/python}
for seed in 0 1 2; do
    [ -f work/all_$seed.pt ] || $PY train_tagger.py --pattern "*-*.npy" --steps 3000 --lr 2e-3 --seed $seed --output work/all_$seed.pt
done
$PY join_heads.py --heads work/all_0.pt work/all_1.pt work/all_2.pt --network sfx_network.safetensors --output work/all
$PY assemble.py --ears work/all --output everyday_all
