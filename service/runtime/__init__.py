"""What runs when on the device: device choice, the adapt queue, prediction's admission and the weight cache."""
