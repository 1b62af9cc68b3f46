"""What this machine is: processor, memory, disks, GPUs, and the runtimes that are installed."""
