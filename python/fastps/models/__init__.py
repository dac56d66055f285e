"""Models trained through the parameter server, over its public interface only."""

from __future__ import annotations
