"""Sockets, threads, processes: few tests."""
