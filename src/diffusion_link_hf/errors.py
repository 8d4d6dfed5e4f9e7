"""The typed errors of the package: each names the item, the value found and the remedy."""

from collections.abc import Iterable


class DiffusionLinkError(Exception):
    """Base of every error that this package raises on purpose.

    The message reads "<item>: <what is wrong, with the value found>. <remedy>". ``item`` stays available for reports.
    """

    def __init__(self, item: object, problem: str, remedy: str):
        self.item = str(item)
        self.problem = problem
        self.remedy = remedy
        super().__init__(self.item, problem, remedy)

    def __str__(self) -> str:
        # Said here because OSError, a base of some subclasses, would format its three arguments as "[Errno …]".
        return f"{self.item}: {self.problem}. {self.remedy}"

    def __reduce__(self):
        return type(self), (self.item, self.problem, self.remedy)


class InputError(DiffusionLinkError, ValueError):
    """An argument has a wrong type, shape, range or combination."""


class AudioError(DiffusionLinkError, ValueError):
    """An audio item cannot be captioned. Its subclasses say why."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The path does not exist, is a directory, or holds no audio file."""


class AudioDecodeError(AudioError):
    """The bytes are not audio, or end too early. ``__cause__`` holds the decoder's own error."""


class AudioContentError(AudioError):
    """The samples cannot be used: none at all, too few, NaN, infinite, or constant and not zero."""


class AudioFormatError(AudioError):
    """The sampling rate, shape or sample type is missing or out of range."""


class ModelFolderError(DiffusionLinkError, OSError):
    """A pipeline or component folder is incomplete, inconsistent, or holds values that cannot be used."""


class HubAccessError(DiffusionLinkError, OSError):
    """A repository or one of its files cannot be had from the Hub. ``__cause__`` holds the Hub client's error."""


class RecipeError(DiffusionLinkError, ValueError):
    """A training recipe has an unknown field, a value out of range, or a combination that cannot run."""


class DataError(DiffusionLinkError, ValueError):
    """A data set or an embedding cache is missing, malformed, or of another encoder; or a file cannot be written."""


def without_tracebacks(error: DiffusionLinkError) -> DiffusionLinkError:
    """The same error, to be kept in a report: tracebacks would keep the samples of all frames they went through."""
    chained: BaseException | None = error
    while chained is not None:
        chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__
    return error


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first names, sorted, for a message.

    Examples:
        >>> listed(["d", "b", "a", "c"], most=2)
        'a, b and 2 more'
    """
    names = sorted(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
