"""What an initialisation did, and, when asked, what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, overload

from torch import nn

from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.findings import audit_of
from tritoninit.auditing.records import Audit
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.models.scopes import WHOLE, Scope


class Report(Sequence[Assignment]):
    """What :func:`~tritoninit.initialize_` did: its assignments in order, and, when asked, what came of them.

    Tensors are measured when something first asks for :attr:`audit`, which ``print`` and :meth:`as_dict` do,
    and not again: ask before training changes them.

    Args:
        assignments: what was done; looked through when first asked for.
        seed: of every key.
        module: the model, whose other parameters and buffers are audited, too.
        noticed: (name, what), which become remarks of the audit; looked through when that is asked for, and
            perhaps again.
        scope: what of a whole the model is a part of.
    """

    def __init__(
        self,
        assignments: Iterable[Assignment],
        *,
        seed: int,
        module: nn.Module | None = None,
        noticed: Iterable[tuple[str, str]] = (),
        scope: Scope = WHOLE,
    ) -> None:
        self._given = assignments
        self.seed = seed
        self.module = module
        self.scope = scope
        self._noticed = noticed

    @cached_property
    def _assignments(self) -> tuple[Assignment, ...]:
        return tuple(self._given)

    @overload
    def __getitem__(self, index: int) -> Assignment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Assignment, ...]: ...
    def __getitem__(self, index: int | slice) -> Assignment | tuple[Assignment, ...]:
        return self._assignments[index]

    def __len__(self) -> int:
        return len(self._assignments)

    @cached_property
    def audit(self) -> Audit:
        return audit_of(self.module, self._assignments, tuple(self._noticed), self.scope)

    def gather(self) -> Audit:
        """The audit of what all ranks hold, as one model, which :attr:`audit` and ``print`` show then.

        All ranks of the default process group have to call this; nothing else here communicates.

        Returns:
            The same on every rank.
        """
        self.audit = audit_of(self.module, self._assignments, tuple(self._noticed), self.scope, gather=True)
        return self.audit

    def as_dict(self) -> dict[str, Any]:
        """The audit, the seed and the stream's version, as JSON has them.

        Returns:
            Numbers, strings, lists and dictionaries.
        """
        return {"seed": self.seed, "stream_version": STREAM_VERSION, **self.audit.as_dict()}

    def to_json(self) -> str:
        """The same as a JSON document.

        Returns:
            A document of :meth:`as_dict`.
        """
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return f"seed {self.seed}\n{self.audit}"

    def __repr__(self) -> str:
        return f"Report({len(self)} assignments, seed={self.seed})"
