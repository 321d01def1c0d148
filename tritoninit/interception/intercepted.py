"""What an intercept tells afterwards, and where torch.nn.init's functions are routed to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from tritoninit._on_import import NN_INIT
from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.report import Report
from tritoninit.interception.libraries import DEVICES, LIBRARIES
from tritoninit.interception.routes import Routes
from tritoninit.interception.served import FUNCTIONS
from tritoninit.keys import Key
from tritoninit.models.rules import RuleSet

# As they were when the package was imported: others may stand in for torch.nn.init's for a while.
ROUTES = Routes(to="tritoninit.interception.recorder")
ROUTES.add(nn.init, FUNCTIONS, NN_INIT)
for _library, _meanings in LIBRARIES.items():
    ROUTES.add_library(_library, {name: meaning.arguments for name, meaning in _meanings.items()})
for _library, _asks in DEVICES.items():
    ROUTES.add_library(_library, {_asks: ()})


@dataclass(frozen=True)
class PassedOn:
    """A call that torch itself served: the function's name, what it was to fill, and why.

    Args:
        function: its name, as torch has it.
        target: what it was to fill, in words.
        reason: in words.
    """

    function: str
    target: str
    reason: str


class Intercepted(ABC):
    """What :func:`~tritoninit.intercept` did.

    Attributes:
        key: the parent of every fill's key.
        passed_on: calls that this library would have served if it could, in order.
    """

    key: Key
    passed_on: list[PassedOn]

    @property
    @abstractmethod
    def pending(self) -> int:
        """How many fills are recorded and not yet run."""

    @abstractmethod
    def is_pending(self, tensor: Tensor) -> bool:
        """Whether fills of a tensor's memory are recorded and not yet run, since nobody has looked.

        Args:
            tensor: any.

        Returns:
            Whether there are any.
        """

    @abstractmethod
    def flush(self) -> None:
        """Run the pending fills."""

    @abstractmethod
    def assignments(self, model: nn.Module) -> tuple[Assignment, ...]:
        """How each distinct parameter was set, in the order of ``named_parameters``; then buffers that were.

        One is left out unless it was filled as a whole in the block, and not changed there by other means
        since; but what torch drew is told as such, with "torch" for the backend and the block's key. Changes
        by way of arrays, pointers, storages or types that hide it are not seen. One of which parts were
        changed again is told as :class:`ZeroRow` (an embedding's padding row) or :class:`Overlaid`. A fill by
        way of a view of another shape, such as ``weight.T``, is told as the primitive that it lowered to. A
        copy is told as what it was copied from.

        Args:
            model: built in the block, or of tensors that were.

        Returns:
            One a tensor.
        """

    def report(self, model: nn.Module) -> Report:
        """The same, with the audit of the model.

        Args:
            model: built in the block, or of tensors that were.

        Returns:
            The report.
        """
        return Report(self.assignments(model), seed=self.key.seed, module=model)

    @abstractmethod
    def rules(self, model: nn.Module) -> RuleSet:
        """What the model's own code asked for, as rules: how the same is done elsewhere.

        One rule a parameter, and a buffer that was set in the block, by its qualified name: the initializer
        of all that became of it, whatever was overwritten. What no other says is
        :class:`~tritoninit.Recorded`: the calls that it took.

        Args:
            model: built in the block, or of tensors that were.

        Returns:
            One rule a tensor, by its name.

        Raises:
            ValueError: parameters of which nobody can say how they were set, by name. Under ``intercept``
                these are more than under :func:`~tritoninit.record`, which notes every call.
        """
