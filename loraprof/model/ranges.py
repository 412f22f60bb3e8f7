"""Which values can a file's figures have at all? Every field read from disk takes one of these types.

The limits lie far above anything that exists and far enough below 2^63 that sums and products of them stay exact
or finite: what lies outside was not measured. msgspec checks them while it decodes, and names the field.
"""

from typing import Annotated, Final

from msgspec import Meta

MOST_NS: Final = 2**53  # 104 days; as a float64 still exact
MOST_ROWS: Final = 2**31 - 1
MOST_RANKS: Final = 2**20

Ns = Annotated[int, Meta(ge=0, le=MOST_NS)]
PositiveNs = Annotated[int, Meta(ge=1, le=MOST_NS)]
ClockNs = Annotated[int, Meta(ge=0, le=2**62)]  # since some start of time
Count = Annotated[int, Meta(ge=0, le=MOST_NS)]
Positive = Annotated[int, Meta(ge=1, le=MOST_NS)]
Bytes = Annotated[int, Meta(ge=0, le=2**60)]
PositiveBytes = Annotated[int, Meta(ge=1, le=2**60)]
Size = Annotated[int, Meta(ge=0, le=2**40)]  # of one dimension
PositiveSize = Annotated[int, Meta(ge=1, le=2**40)]
Index = Annotated[int, Meta(ge=0, le=MOST_ROWS)]
IndexOrNone = Annotated[int, Meta(ge=-1, le=MOST_ROWS)]  # -1: of none
Number = Annotated[int, Meta(ge=-(2**62), le=2**62)]  # an id that another program gave
Rank = Annotated[int, Meta(ge=0, lt=MOST_RANKS)]
Ranks = Annotated[int, Meta(ge=1, le=MOST_RANKS)]
Rate = Annotated[float, Meta(ge=0, le=1e15)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Factor = Annotated[float, Meta(ge=-1e15, le=1e15)]
