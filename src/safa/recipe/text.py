"""YAML as recipes have it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from safa.recipe.plain import to_plain


def parsed(text: str) -> Any:
    """A copy without YAML's aliases, so that an override changes one place alone."""
    try:
        return to_plain(yaml.load(text, Loader=_Loader))
    except RecursionError as error:
        raise yaml.YAMLError("something in it holds itself, or is nested too deeply") from error
    except ValueError as error:  # a tag that does not fit its text, as in "!!float many"
        raise yaml.YAMLError(str(error)) from error


def dumped(plain: Any) -> str:
    """Text that ``parsed`` gives back."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=110)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``2e-4`` as a string, since it wants a dot; recipes follow YAML 1.2 here.

    As YAML wants it, and PyYAML does not, a key comes once: of two blocks of stages, which one is meant?
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in construct_mapping: by then, "<<" may have put another mapping's keys among the node's own.
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"lines {lines[key.value]} and {line}" if line > lines[key.value] else f"line {line}"
                raise yaml.YAMLError(f"the key {key.value!r} stands twice in one mapping, in {where}")
            lines[key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes a folder called ``1e3``, which the loader would take for a number."""


# A date is a text, whether a folder is called so or an option is given it by mistake: no recipe has use for one.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )
