"""`fastcam.lrp(...)`: the method has the name of the package that its engine lives in, so the package can be called."""

from types import ModuleType

from fastcam import lrp as package
from fastcam.attribution.functions.relevance import lrp


class LrpPackage(ModuleType):
    """The package `fastcam.lrp`, which called is the method of that name."""

    __call__ = staticmethod(lrp)


package.__class__ = LrpPackage
