"""The first study's recipe on our split, for comparison: three MLPs on the largest frozen features."""

import numpy as np
import torch
import torch.nn as nn
from train_tagger import *

torch.set_num_threads(1)
torch.manual_seed(0)
names, fine = vocabulary(Path("classes.json"))
sil = silence_features(Path("sfx_network.safetensors"))
c = Clips(Path("clips"), "train-v0-*.npy", names, fine, sil, 0, 0.5, windows=0)
X = c.largest
n = len(X)
mu, sd = X.mean(0), X.std(0) + 0.02
f, rows = load_scenes(Path("scenes"), "validation-single.npy")
V = (f.float().amax(1) - mu) / sd
tr = np.array([names[r["events"][0]["name"]] for r in rows])
src = np.array([r["source"] for r in rows])
bank = (src != "made") & ~np.char.startswith(src, "esc10")
esc = np.char.startswith(src, "esc10")
M = np.load("work/named.npy")
lab = c.target.argmax(1)
w = c.target.sum(0)
p = (1 / w[lab].sqrt()).double()
tot = 0
for s in range(3):
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(512, 1024), nn.GELU(), nn.Dropout(0.5), nn.Linear(1024, len(names)))
    o = torch.optim.AdamW(net.parameters(), 1e-3)
    b = torch.distributions.Beta(0.4, 0.4)
    for i in range(1500):
        k = torch.multinomial(p, 128, True)
        x = (X[k] - mu) / sd
        t = c.target[k]
        m = b.sample((128, 1))
        q = torch.randperm(128)
        x = m * x + (1 - m) * x[q] + 0.2 * torch.randn_like(x)
        t = m * t + (1 - m) * t[q]
        l = -(t * F.log_softmax(net(x), -1)).sum(1).mean()
        o.zero_grad()
        l.backward()
        o.step()
    net.eval()
    with torch.inference_mode():
        tot = tot + net(V).softmax(-1)
    g = tot.argmax(1).numpy()
    print(
        "study recipe",
        s + 1,
        "top1",
        (g == tr)[bank].mean(),
        "named",
        M[g, tr][bank].mean(),
        "esc",
        (g == tr)[esc].mean(),
    )
