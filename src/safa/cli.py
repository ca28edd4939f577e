"""The command line: what can be asked for, and nothing of how it is done. Imports no torch, so help is instant."""

from __future__ import annotations

import io
import re
import sys
from itertools import pairwise
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt

from safa.errors import UserError, closest, is_out_of_memory

_KINDS = {
    "NonNegativeInt": "a whole number of at least 0",
    "PositiveInt": "a whole number of at least 1",
    "<class 'float'>": "a number",
}
_ARGUMENTS = {
    "name": "a data set, an image folder or a CSV file",
    "run": "the folder of a run",
    "paths": "image files or folders",
    "recipes": "the recipes to compare, before any --set",
}

_OUT_OF_MEMORY = (
    "memory has ended; take smaller batches (--set batch_size=32), smaller images (--set data.image_size=64) or "
    "--precision bf16. A run goes on from its checkpoint where another program frees the memory it lacks"
)

EXAMPLES = """examples:
  safa compare digits/ldam-drw digits/ldam-drw-safa           about a minute; a table and a page
  safa train images/mixup-balanced-softmax --data my_photos   your folder: my_photos/train/CLASS/*.jpg
  safa data my_photos                                         how long the tail is
  safa list                                                   every name a recipe can use
  safa report table1                                          the paper's Table 1 with what was run beside it
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one sentence and exit status 2."""
    from safa import commands
    from safa.console import out

    _let_every_name_be_printed()
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        chosen = parser().parse_args(arguments)
        values = chosen[chosen.command].as_dict() if chosen.command else {}
        run = commands.list_names if chosen.command == "list" else getattr(commands, chosen.command)
        return int(run(**values) or 0)
    except UserError as error:
        print(f"safa: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("safa: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # "safa list | head" closes our output early, which is no mistake
        out.on_broken_pipe()
        return 0
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"safa: {_OUT_OF_MEMORY}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:  # a path that may not be looked at, or that is none; where there is no path, a defect
        if error.filename is None:
            raise
        print(f"safa: cannot reach {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2


def _refuse_empty(arguments: list[str]) -> None:
    """A variable that the shell does not know leaves an empty argument, which as a path would be this folder."""
    for before, given in pairwise(["safa", *arguments]):
        option = before if given == "" else given.removesuffix("=") if re.fullmatch(r"--\w+=", given) else None
        if option is not None:
            raise UserError(f"what follows {option} is empty; is it a variable of the shell that is not set?")


def _let_every_name_be_printed() -> None:
    """Names of files may hold bytes that are no UTF-8; they are shown escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def parser() -> ArgumentParser:
    """All commands with their options."""
    top = _Parser(
        prog="safa",
        description="Long-tailed image classification: SAFA, the methods it is compared with, and an honest bench.",
        epilog=EXAMPLES,
        version=_version(),
    )
    commands = top.add_subcommands(dest="command", required=True, metavar="COMMAND")
    for name, (add, text) in _COMMANDS.items():
        sub = _Parser(description=text)
        add(sub)
        commands.add_subcommand(name, sub, help=text)
    return top


class _Parser(ArgumentParser):
    """No abbreviated options, so that a later option never changes the meaning of an older call."""

    def __init__(self, **options: Any) -> None:
        from argparse import RawDescriptionHelpFormatter

        super().__init__(allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **options)

    def error(self, message: str, ex: Exception | None = None) -> Any:  # noqa: ARG002
        # That an argument is missing is found by the parser of all commands, which puts the command before its name.
        missing = re.match(r"the following arguments are required: (\w+)\.", message)
        command = self.prog.replace(" [options]", "") + (f" {missing[1]}" if missing else "")
        said = _plainly(message.strip(), [name for name in self._option_string_actions if name.startswith("--")])
        raise UserError(f"{said}\nTry '{command} --help'")


def _plainly(message: str, options: list[str]) -> str:
    """The parser speaks of keys and Python types; who calls a command knows options and numbers."""
    extra = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    if extra:
        near = closest(extra[1].strip("-"), [option.strip("-") for option in options]).replace("'", "'--", 1)
        of_recipes = "; what is in a recipe is changed by --set, as in --set data.on_corrupt=skip stages.0.epochs=3"
        return f"there is no option {extra[1]}{near or (of_recipes if '--set' in options else '')}"
    unknown = re.search(r"invalid choice: '(.*?)'", message)
    if unknown or message.startswith('expected "command"'):
        named = f"no command is called {unknown[1]!r}{closest(unknown[1], _COMMANDS)}" if unknown else "name a command"
        return f"{named}; there are {', '.join(_COMMANDS)}"
    missing = re.match(r"the following arguments are required: (.+)", message)
    if missing:
        return "name " + " and ".join(_ARGUMENTS[name.partition(".")[2]] for name in missing[1].split(", "))
    return _wrong_value(message) or message


def _wrong_value(message: str) -> str | None:
    """What an option takes and what it got; None where the message is about something else."""
    key = re.match(r'Parser key "([\w.]+)"', message)
    literal = re.search(r"Literal\[(.+?)\]", message)
    choices = re.findall(r"'(\w+)'", literal[1]) if literal else []
    one_of = f"one of {', '.join(choices)}" if choices else None
    wanted = next((words for kind, words in _KINDS.items() if kind in message), one_of)
    if not key or not wanted:
        return None
    value = re.search(r"(?:value|base 10|Int): '?([^'\n]*?)'?(?: does not|$)", message)
    return f"--{key[1]} must be {wanted}" + (f", got {value[1]!r}{closest(value[1], choices)}" if value else "")


def _version() -> str:
    from safa import __version__

    return __version__


def _recipe_options(p: ArgumentParser) -> None:
    p.add_argument("--data", type=str, metavar="NAME|FOLDER|CSV", help="other images than the recipe names")
    p.add_argument("--root", type=str, metavar="DIR", help="folder of the data sets (default: $SAFA_DATA)")
    p.add_argument("--imbalance_factor", type=float, metavar="X", help="largest over smallest class, at least 1")
    p.add_argument("--precision", type=str, metavar="float32|bf16|fp16", help="another one than the recipe's")
    p.add_argument(
        "--set", type=str, default=[], nargs="+", action="extend", metavar="KEY=VALUE",
        help="other values than the recipe's, e.g. stages.1.augmenter.start=random batch_size=64; after the recipes",
    )  # fmt: skip


def _machine_options(p: ArgumentParser) -> None:
    p.add_argument("--out", type=str, metavar="DIR", help="folder for the runs (default: runs)")
    p.add_argument("--results", type=str, metavar="FILE", help="append the result lines to this file, too")
    p.add_argument("--cache", type=str, metavar="DIR", help="shared states (default: OUT/.cache)")
    p.add_argument("--device", type=str, default="auto", metavar="auto|cpu|cuda", help="where to train")
    p.add_argument("--threads", type=PositiveInt, metavar="N", help="CPU threads (default: all cores)")
    p.add_argument(
        "--workers",
        type=NonNegativeInt,
        metavar="N",
        help="processes that decode large image sets (default: 2)",
    )
    p.add_argument("--track", action="store_true", help="write TensorBoard files into each run's folder")


def _train(p: ArgumentParser) -> None:
    p.add_argument("recipe", type=str, nargs="?", help="a name of 'safa list recipe', or a YAML file")
    p.add_argument("--resume", type=str, metavar="RUN", help="go on with this run folder")
    p.add_argument("--seed", type=NonNegativeInt, help="seed of the training (default: the recipe's)")
    _recipe_options(p)
    _machine_options(p)


def _compare(p: ArgumentParser) -> None:
    p.add_argument(
        "recipes",
        type=str,
        nargs="+",
        help="names of 'safa list recipe', YAML files, or folders of either for all in them; the first is the baseline",
    )
    p.add_argument("--seeds", type=str, metavar="0,1,2 or 0..9", help="seeds of the training (default: the recipes')")
    _recipe_options(p)
    _machine_options(p)


def _evaluate(p: ArgumentParser) -> None:
    p.add_argument("run", type=str, help="run folder")
    p.add_argument("--split", type=str, default="test", metavar="test|validation", help="images to evaluate on")
    p.add_argument(
        "--root",
        type=str,
        metavar="DIR",
        help="folder of the data sets (default: as trained, or $SAFA_DATA)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def _on_corrupt(p: ArgumentParser) -> None:
    p.add_argument(
        "--on_corrupt",
        type=Literal["stop", "skip"],
        default="stop",
        metavar="stop|skip",
        help="at an unreadable file",
    )


def _predict(p: ArgumentParser) -> None:
    p.add_argument("run", type=str, help="run folder")
    p.add_argument("paths", type=str, nargs="+", help="image files or folders")
    p.add_argument("--format", type=str, default="csv", metavar="csv|json", help="what to write")
    p.add_argument("--output", type=str, metavar="FILE", help="where to (default: standard output)")
    p.add_argument("--top", type=PositiveInt, default=1, metavar="K", help="the K most probable classes")
    _on_corrupt(p)


def _export(p: ArgumentParser) -> None:
    p.add_argument("run", type=str, help="run folder")
    p.add_argument("--format", type=str, default="safetensors", metavar="safetensors|onnx|pt2", help="file format")
    p.add_argument("--output", type=str, metavar="FILE", help="where to (default: RUN/model.FORMAT)")


def _report(p: ArgumentParser) -> None:
    p.add_argument(
        "paths",
        type=str,
        nargs="*",
        metavar="PATH",
        help="run folders, JSONL files of result lines; and table1, table5 or table6 of the paper, "
        "with the lines of ./results where no file is named",
    )
    p.add_argument("--output", type=str, metavar="FILE", help="write a page of the run folders here")
    p.add_argument("--baseline", type=str, metavar="METHOD", help="what differences are taken to")
    p.add_argument("--tradeoff", type=str, metavar="FILE", help="draw many against medium and few accuracy in this SVG")
    p.add_argument("--features", type=str, metavar="FILE", help="draw a t-SNE of the run folders' features in this SVG")
    p.add_argument("--markdown", action="store_true", help="print GitHub tables")
    p.add_argument("--into", type=str, metavar="FILE", help="put the tables between the markers of this text file")
    p.add_argument(
        "--imbalance_factor",
        type=float,
        metavar="X",
        help="of a table of the paper (default: that of its recipes, and all that were run)",
    )
    p.add_argument(
        "--recipes",
        type=str,
        metavar="DIR",
        help="write the paper's figure and ours into the first lines of the recipes of this folder",
    )


def _data(p: ArgumentParser) -> None:
    p.add_argument("name", type=str, help="a data set, an image folder or a CSV file")
    p.add_argument("--root", type=str, metavar="DIR", help="folder of the data sets (default: $SAFA_DATA)")
    p.add_argument("--imbalance_factor", type=float, metavar="X", help="draw an exponential tail first")
    p.add_argument(
        "--profile",
        type=Literal["exponential", "step", "as_found"],
        metavar="exponential|step|as_found",
        help="shape of the tail",
    )
    p.add_argument("--largest", type=PositiveInt, metavar="N", help="images of the drawn tail's largest class")
    p.add_argument("--png", type=str, metavar="FILE", help="draw the tail into this file")
    _on_corrupt(p)


def _list(p: ArgumentParser) -> None:
    p.add_argument(
        "what",
        type=str,
        nargs="?",
        metavar="KIND",
        help="loss, weighting, sampler, augmenter, backbone, head, reweighting, augmentation, data or recipe; "
        "or a folder of recipes, as table1/cifar100",
    )


def _bench(p: ArgumentParser) -> None:
    p.add_argument(
        "what",
        type=str,
        nargs="?",
        default="loop",
        help="loop: our training against the ordinary loop, SAFA against plain training (default); "
        "methods: a step and an inference of every method against plain CE",
    )
    p.add_argument("--steps", type=PositiveInt, default=20, help="timed steps of each variant and round")
    p.add_argument(
        "--rounds",
        type=PositiveInt,
        default=5,
        help="rounds, in which all variants take turns; medians over them are printed",
    )
    p.add_argument("--batch_size", type=PositiveInt, default=128, help="images per step, even")
    p.add_argument("--model", type=str, default="resnet32", help="backbone")
    p.add_argument(
        "--precision", type=str, default="bf16", metavar="float32|bf16", help="of the training that is timed"
    )
    p.add_argument(
        "--results",
        type=str,
        metavar="FILE",
        help="append one JSON line to this file, which needs to be one of its own",
    )


_COMMANDS = {
    "train": (_train, "Train one recipe; ends with its figures, a page and a model file."),
    "compare": (
        _compare,
        "Train several recipes, epochs they share only once; ends with a table and a page.",
    ),
    "evaluate": (_evaluate, "Test a run: overall, many/medium/few, per class, calibration."),
    "predict": (_predict, "Classify images with a run's network."),
    "export": (_export, "Write the bare network for deployment."),
    "report": (_report, "Tables and pages from result lines and run folders."),
    "data": (_data, "Show the tail of a data set."),
    "list": (_list, "Show every name a recipe can use, with its source."),
    "bench": (_bench, "Time training steps and inference, as ratios measured in one run."),
}

__all__ = ["main", "parser"]
