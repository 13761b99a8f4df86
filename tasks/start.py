"""The weights that a run starts from."""

import argparse
from collections.abc import Callable

from torch import nn

from common.errors import some
from engine.checkpoints import load_model, read
from engine.optimizers import freeze_but_last
from models.weights import load_pretrained


def start_weights(args: argparse.Namespace, model: nn.Module, net: nn.Module, say: Callable[[str], None]) -> None:
    """Put the weights of --resume --preload self, or of --pretrained, into a model.

    net: the part of the model that --pretrained knows, a timm network or one with such a `backbone`.
    """
    if args.preload == "self":
        load_model(model, read(args.resume, "--resume"), args.resume, "--resume")
    elif args.pretrained:
        fresh = load_pretrained(net, args.pretrained)
        say(f"--pretrained {args.pretrained}: layers with a random start: {some(fresh) or 'none'}")
    else:
        say("no --pretrained weights: the whole network has a random start")


def freeze(args: argparse.Namespace, net: nn.Module) -> None:
    """Leave only the last --train_blocks blocks to train, where that is asked for."""
    if args.train_blocks:
        freeze_but_last(net, args.train_blocks)
