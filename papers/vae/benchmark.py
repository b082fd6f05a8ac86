"""Training samples per second of AEVB: the straightforward script, and what train.py does.

    make benchmark-vae       # all in one process, in alternating blocks, one thread; two minutes on a CPU

The same model (20 latent variables, 500 hidden units), minibatches of 100 and Adagrad: a DataLoader, fp32 and eager; the images in
memory as one tensor; the same in bf16; the same compiled (train.py on a CPU).
"""

import copy
import itertools
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, TensorDataset

from common.benchmark import compare
from common.data import standin
from common.data.order import shuffled
from papers.vae.train import Config, Methods, adagrad, minibatch

UPDATES, BLOCKS, IMAGES = 100, 7, 10_000


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two panels of Fig. 2 side by side are faster than one panel on two cores
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config(methods=("aevb",), train_size=IMAGES)
    images = standin.decoded(IMAGES, 784)
    start = Methods(config)

    def straightforward():
        net = copy.deepcopy(start.aevb).to(device)
        optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01, weight_decay=1 / IMAGES)
        loader = DataLoader(TensorDataset(images), batch_size=config.batch_size, shuffle=True)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))

        def block():
            for (x,) in itertools.islice(batches, UPDATES):
                epsilon = torch.randn(len(x), 1, config.latent, device=device)
                loss = -net(x.to(device), epsilon).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return block

    def in_memory(bf16=False, function=lambda f: f):
        methods, here = copy.deepcopy(start).to(device), images.to(device)
        model, optimizer = function(methods), adagrad(methods, [0.01], IMAGES)
        run, steps = SimpleNamespace(config=config, seed=0, device=device), itertools.count()

        def block():
            for step in itertools.islice(steps, UPDATES):
                batch = minibatch(run, methods, here, shuffled(len(here), config.batch_size, run.seed), step)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    objectives = model(*batch)
                (-objectives.sum()).backward()
                optimizer.step()
                optimizer.zero_grad()

        return block

    variants = {
        "DataLoader, fp32, eager": straightforward(),
        "images in memory, fused Adagrad": in_memory(),
        "the same, bf16": in_memory(bf16=True),
        "the same, compiled (train.py)": in_memory(bf16=True, function=torch.compile),
    }
    compare(variants, UPDATES * config.batch_size, "samples", blocks=BLOCKS)


if __name__ == "__main__":
    main()
