"""What can go wrong in a metric beside its input: something is not installed, or an external tool failed."""

from ..errors import DiffusionLinkError


class MetricDependencyError(DiffusionLinkError, RuntimeError):
    """A metric needs Java, a package, a jar or a model that this machine lacks; the remedy names what to install."""


class MetricToolError(DiffusionLinkError, RuntimeError):
    """An external tool (tokenizer, METEOR, SPICE) ended early, gave no answer in time, or answered nonsense."""
