"""Protocols: published ways to score frozen features, each with its constants and its source."""

from featbank.evaluation.protocols.registry import list_protocols
from featbank.evaluation.protocols.run import ProtocolResult, run_protocol

__all__ = ["ProtocolResult", "list_protocols", "run_protocol"]
