"""Writes events.hex: two records made by TensorBoard's own writer (pip install tensorboard==2.21.0)."""

import io
import pathlib

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

buffer = io.BytesIO()
writer = RecordWriter(buffer)
writer.write(Event(wall_time=2.0, file_version="brain.Event:2").SerializeToString())
value = Summary.Value(tag="world/loss", simple_value=0.5)
writer.write(Event(wall_time=3.0, step=300, summary=Summary(value=[value])).SerializeToString())
pathlib.Path(__file__).with_name("events.hex").write_text(buffer.getvalue().hex() + "\n")
