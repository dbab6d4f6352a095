"""The link to workers on other hosts: messages over TLS, and the relay that stands in for these workers."""
