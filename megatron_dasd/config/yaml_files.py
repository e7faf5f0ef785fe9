"""Reading YAML files that users write, and laying one mapping over another."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from megatron_dasd.errors import UserError

type Content = dict[str, object]
"""A mapping as written in YAML, not checked yet."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error; plain YAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        # `<<` takes over another mapping's keys, which those written here may replace
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[object] = set()
        for node_of_key in own:
            key = self.construct_object(node_of_key, deep=True)
            if key in seen:
                mark = node_of_key.start_mark
                raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: a value that occurs twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # a line break as \n, not as an empty line
    style = '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def read_yaml(path: Path) -> Content:
    """The mapping that a file holds.

    Raises:
        UserError: the file cannot be read, is not YAML, repeats a key or holds no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with name, run_dir and stages or a recipe")
    return content


def yaml_text(content: Mapping[str, object]) -> str:
    """A mapping as plain YAML: keys in the given order, no anchors."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def laid_over(base: Mapping[str, object], above: Mapping[str, object]) -> Content:
    """The mapping ``above`` laid over ``base`` key by key; neither is changed.

    Where both hold a mapping the rule applies again; any other value of ``above`` replaces the
    value of ``base``.
    """
    result = dict(base)
    for key, value in above.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = laid_over(below, value)
        else:
            result[key] = value
    return result
