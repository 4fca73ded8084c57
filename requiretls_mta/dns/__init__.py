"""The DNS stub: dnspython as the codec, Twisted as the transport, answers that say how far they can be believed."""
