"""From the bytes of an untrusted image file to a tensor."""
