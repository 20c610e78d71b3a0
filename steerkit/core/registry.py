"""Registries: everything that can be named and added is declared once, here or in somebody else's package.

    from steerkit import scorer

    @scorer("length-in-words", metrics=[...])
    def words(item, completion): ...

A registry knows the module or package of steerkit that declares what is built in (its home), and loads it when a name
is first looked up. A package that is installed beside steerkit names its modules in the entry-point group
`steerkit.plugins`; they are imported then too, and what they declare stands beside what is built in. Modules that
declare things keep heavy imports (torch) inside functions, so that `--help` and `steerkit list` stay quick.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGINS = "steerkit.plugins"
NAME = re.compile(r"[A-Za-z][\w.-]*")

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, in the order in which they were declared.

    `kind` is the singular noun of messages, `plural` the one of `steerkit list`. `homes` are the modules that declare
    what is built in; of a package, every module directly in it.
    """

    def __init__(self, kind: str, plural: str, *homes: str) -> None:
        self.kind = kind
        self.plural = plural
        self._homes = homes
        self._things: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, thing: T) -> T:
        """Register `thing` under `name` and return it. Raises MisuseError for a name that is malformed or taken."""
        if origin(thing).partition(".")[0] != __package__.partition(".")[0]:
            self._load_home()  # what is built in comes first, and keeps its names
        if not NAME.fullmatch(name):
            raise MisuseError(
                f"{name!r} is no name for a {self.kind}: begin with a letter, go on with letters, digits, - _ or ."
            )
        if name in self._things:
            raise MisuseError(
                f"there is a {self.kind} {name!r} already, from {origin(self._things[name])}: choose another name"
            )
        self._things[name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        """The thing of this name. Raises MisuseError, naming those that there are."""
        self._load()
        if name not in self._things:
            raise MisuseError(f"no {self.kind} {name!r}; there are {', '.join(self._things)}")
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(dict(self._things))

    def __len__(self) -> int:
        self._load()
        return len(self._things)

    def items(self) -> list[tuple[str, T]]:
        """(name, thing) of all, in order."""
        self._load()
        return list(self._things.items())

    def resolve(self, thing: T | str) -> T:
        """The thing itself, or the one of this name."""
        return self[thing] if isinstance(thing, str) else thing

    def __repr__(self) -> str:
        return f"Registry({self.plural}: {', '.join(self)})"

    def _load(self) -> None:
        self._load_home()
        load_plugins()

    def _load_home(self) -> None:
        if self._loaded:  # or begun: a home may look something up while it is being imported
            return
        self._loaded = True
        try:
            for name in self._homes:
                home = importlib.import_module(name)
                for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
                    if not module.ispkg:
                        importlib.import_module(f"{name}.{module.name}")
        except BaseException:
            self._loaded = False
            raise


_asked: set[EntryPoint] = set()


@functools.cache
def plugins() -> tuple[EntryPoint, ...]:
    """Return what packages name in the entry-point group `steerkit.plugins`."""
    from importlib.metadata import entry_points  # not before something is looked up: start-up time

    return tuple(entry_points(group=PLUGINS))


def load_plugins() -> None:
    """Import what other packages name in the entry-point group `steerkit.plugins`; each once a process.

    One that cannot be imported is warned of and left out: it must not take the rest of the program with it.
    """
    for entry in plugins():
        if entry in _asked:  # or being imported: a plugin may look something up
            continue
        _asked.add(entry)
        try:
            entry.load()
        except Exception as error:  # whatever a stranger's module raises
            warnings.warn(
                f"the plugin {entry.name!r} ({entry.value}) cannot be loaded: {error}", stacklevel=2
            )


def origin(thing: object) -> str:
    """The module that declares `thing`."""
    declared = getattr(thing, "function", thing)
    return getattr(declared, "__module__", None) or type(thing).__module__


def summary_of(thing: object) -> str:
    """The first line of what `thing` says of itself."""
    doc = getattr(thing, "doc", None) or inspect.getdoc(getattr(thing, "function", thing)) or ""
    return doc.strip().partition("\n")[0]


ESTIMATORS: Registry[Any] = Registry("estimator", "estimators", "steerkit.extraction.estimators")
OPERATIONS: Registry[Any] = Registry("operation", "operations", "steerkit.interventions.operations")
LOGIT_RULES: Registry[Any] = Registry(
    "logit rule", "rules", "steerkit.interventions.logit_rules", "steerkit.interventions.policies"
)
GATES: Registry[Any] = Registry(
    "gate", "gates", "steerkit.interventions.detectors", "steerkit.extraction.answer_detectors"
)
READERS: Registry[Any] = Registry("reader", "readers", "steerkit.interventions.readers")
SCORERS: Registry[Any] = Registry("scorer", "scorers", "steerkit.scoring", "steerkit.chains.measures")
SUITES: Registry[Any] = Registry("suite", "suites", "steerkit.suites")
EXPORTERS: Registry[Any] = Registry("exporter", "exporters", "steerkit.interchange")
IMPORTERS: Registry[Any] = Registry("importer", "importers", "steerkit.interchange")
ENGINES: Registry[Any] = Registry("engine", "engines", "steerkit.engines.catalogue")
# What objects show of themselves in a notebook. They ask for it themselves, so it is in no list of what can be named.
VIEWS: Registry[Any] = Registry("view", "views", "steerkit.report.views")
REGISTRIES = (
    ESTIMATORS,
    OPERATIONS,
    LOGIT_RULES,
    GATES,
    READERS,
    SCORERS,
    SUITES,
    EXPORTERS,
    IMPORTERS,
    ENGINES,
)
