"""Tells ``twist`` of ``twist soledad``.  Nothing is imported before it is asked for."""

from twisted.application.service import ServiceMaker

soledad = ServiceMaker(
    "soledad",
    "soledad.server.service",
    "A server that keeps what it cannot read.",
    "soledad",
)
