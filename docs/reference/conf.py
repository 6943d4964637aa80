"""How Sphinx builds the API reference of ``capd_client``: ``scripts/reference``."""

import re
import sys
from collections import namedtuple

import docutils.nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from capd_protocol.version import VERSION

project = "capd_client"
copyright = "The capd authors"  # Sphinx's name
version = release = VERSION

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_theme_options = {"description": "Packet capture for programs that do not run as root", "page_width": "1100px"}
html_copy_source = False

# Arguments are where __init__ says what they are.
autoclass_content = "both"
autodoc_member_order = "bysource"
# The docstrings have what parameters mean, the signatures their types.
autodoc_typehints = "signature"
# What a base of others has, ends the list: of ours, the bases have no page.
autodoc_default_options = {"members": True, "inherited-members": "tuple, dict, int, str, Struct, BaseException, object"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True

# A type that is documented nowhere is a warning, and scripts/reference makes that an error. Other projects' names would
# have to be looked up on the network, where the build is to work without it.
nitpicky = True
_OTHERS = "|".join((*sys.stdlib_module_names, "numpy", "npt", "np"))
# What a stream or a dissection gives, by its arguments.
nitpick_ignore = [
    ("py:class", f"capd_client.{module}.Item_co")
    for module in ("aio.dissection", "aio.stream", "dissection.blocking", "reading.live")
]
# Classes of one name, such as the streams of both sides, are each on a page.
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})\..*")]

# No public name leads to it.
_NAMED_TUPLE_FIELD = type(namedtuple("_Any", "field").field)  # type: ignore[attr-defined]

# Where names that a docstring uses are documented.
_MODULES = ("capd_client", "capd_client.events", "capd_client.reading.model", "capd_protocol.batches.model")


def _prepare(_app: Sphinx, what: str, _name: str, described: object, _options: object, lines: list[str]) -> None:
    """Make a docstring what napoleon reads as it is meant."""
    # namedtuple() made it, for __new__: the class's own docstring has the fields.
    made = getattr(getattr(described, "__new__", None), "__doc__", None) or "\0"
    text = "\n".join(lines).replace(made, "") if what == "class" else "\n".join(lines)
    # Code below an example would be taken for prose.
    text = re.sub(r"^( *)Example:$", r"\1.. rubric:: Example\n\n\1.. code-block:: python\n", text, flags=re.MULTILINE)
    # Of an attribute, what comes before a colon in the first line would be taken for its type: not behind a comment.
    lines[:] = [*(["..", ""] if what in ("attribute", "data", "property") else []), *text.split("\n")]


def _skip(_app: Sphinx, _what: str, _name: str, member: object, _skipped: bool, _options: object) -> bool | None:
    """Leave out the fields of named tuples, which their classes' docstrings have."""
    return True if isinstance(member, _NAMED_TUPLE_FIELD) else None


def _find_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: docutils.nodes.TextElement
) -> docutils.nodes.Node | None:
    """Resolve what a docstring calls by its bare name, as its own module does."""
    domain = env.domains.python_domain
    for module in _MODULES:
        name = f"{module}.{node.get('reftarget')}"
        if name in domain.objects:
            found: docutils.nodes.Element | None = domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", name, node, content
            )
            return found
    return None


def setup(app: Sphinx) -> None:
    """Register what is above."""
    # Before napoleon, which is at 500.
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _find_name)
