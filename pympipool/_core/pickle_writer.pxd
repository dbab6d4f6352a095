"""What `plain_values.pyx` uses of `pickle_writer.pyx`."""

cdef list write_plain_value(value, kinds)
