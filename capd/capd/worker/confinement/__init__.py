"""What a worker may ask of the kernel: Landlock for files, seccomp for system calls."""
