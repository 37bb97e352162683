"""What runs on the device and when: the adapt queue, batching of predictions, the weight cache, image decoding."""
