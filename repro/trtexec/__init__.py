"""trtexec, the vendor's own tool: what each release accepts, and how to read what it prints and exports."""
