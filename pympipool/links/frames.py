"""What travels over a control connection; shared by its two ends.

    worker -> master    hello: 48 bytes, once       magic | key | worker | rank
    both directions     frames: u32 length, pickle of a tuple (word, ...)

The hello has a fixed size and is no pickle, so that whoever does not know the key can send
what he likes: nothing of it is ever interpreted. Frames are read only from a peer that has proved to be
of our user and to know the key.

The worker's program imports this module: it stays small, and imports nothing that costs.
"""

import os
import pickle
import socket
import struct
import sys

Frame = tuple  # (word, ...), see docs/design.md; `tuple[Any, ...]` would cost the import of typing

MAGIC = b"pmpool01"
HELLO = struct.Struct("<8s32sII")
LENGTH = struct.Struct("<I")

FRAME_LIMIT = 64 << 20
"""Most bytes of one frame. Settings and exceptions are small; calls do not travel here."""

SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
"""A peer that is gone must be an error here, also where the user has set SIGPIPE to its default."""


class ProtocolError(ConnectionError):
    """The peer sent something that is no frame, or one that is too large."""
