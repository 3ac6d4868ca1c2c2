"""One partition of samples → one partition of the feature table; every sample in is a row out.

Two steps, so that they can run in one actor or in two pools:

    preparing   CPU: fetch, decode, and all that needs no network (spectra, words); pictures as uint8
    encoding    GPU or CPU: pictures, sounds and texts of many samples through networks; the Arrow rows

    steps       one feature of one sample, as a pure function of a local file or a text
    exchange    what is prepared ⇄ one Arrow table, between two pools

What fails for one modality of one sample becomes an entry of its row's `errors`, and that modality is null.
"""

from mmray.extraction.encoding import Encoding
from mmray.extraction.exchange import from_arrow, to_arrow
from mmray.extraction.preparing import Preparation, Prepared
from mmray.extraction.steps import Step

__all__ = ["Encoding", "Preparation", "Prepared", "Step", "from_arrow", "to_arrow"]
