"""YAML as plain values: no objects, no key twice."""

from typing import Any

import yaml

from ..errors import UserError

__all__ = ["read_yaml"]


def read_yaml(text: str, where: str) -> Any:
    """Plain values of a YAML text, or a UserError that says where it stands; a key given twice is an error."""
    try:
        return yaml.load(text, _OnceLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())[:150]}") from error


class _OnceLoader(yaml.SafeLoader):
    """Plain values only, and each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, each of its keys once."""
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)
