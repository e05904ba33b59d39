"""Prompting: language models as experts, by examples in the prompt.

`FewShotExpert` turns any text-to-text function into an expert of `MMoE`; `ChatEndpoint` is such a function for servers
that speak the OpenAI-compatible chat protocol.
"""

from i2moe.mmoe.prompting.endpoint import ChatEndpoint, EndpointError, Usage
from i2moe.mmoe.prompting.few_shot import Exchange, FewShotExpert

__all__ = ["ChatEndpoint", "EndpointError", "Exchange", "FewShotExpert", "Usage"]
