"""What tests of real processes share: a daemon of one's own, the command line, clients in other processes."""
