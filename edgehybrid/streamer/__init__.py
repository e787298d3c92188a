"""Run a network on a camera, a clip or a test scene, show it on a page, and say how old every answer was.

address.py    what a user calls a source -> Address; credentials stay inside
readers.py    Address -> Reader: synthetic.py, pictures.py, video.py (PyAV), gstreamer.py (Jetson, in a child)
capture.py    keep a Reader connected, refuse what is no picture or (stillness.py) the same one for too long
frame.py      a mailbox of depth one between capture.py and session.py: the newest frame wins
session.py    newest frame -> network.py -> Answer -> watchers: journal.py, recorder.py, gallery.py
gallery.py    the newest answer for whoever looks -> server.py (reception.py, access.py: who may) -> page.*
play.py       put all of it together for one run, and sum it up
"""

from edgehybrid.streamer.address import Address, parse
from edgehybrid.streamer.network import Subject, Variant
from edgehybrid.streamer.play import Play, play

__all__ = ["Address", "Play", "Subject", "Variant", "parse", "play"]
