"""Fusion modules: from encoded modalities to predictions.

Every fusion is built as ``Name(feature_dims, n_outputs, *, ...)``, is called with one tensor (B, D_i) or
(B, T_i, D_i) per modality and returns a `BackboneOutput`. Each is a model on its own, and an expert of
`InteractionMoE`.
"""

from i2moe.backbones.early_late import EarlyFusion, LateFusion
from i2moe.backbones.encoders import (
    Conv1dEncoder,
    Conv3dEncoder,
    GRUEncoder,
    Maxout,
    MaxoutEncoder,
    MLPEncoder,
)
from i2moe.backbones.interpretcc import InterpretCC, gumbel_sigmoid
from i2moe.backbones.layers.attention import MLP, SelfAttention, TransformerLayer
from i2moe.backbones.layers.embeddings import PatchEmbedding
from i2moe.backbones.layers.moepp import MoEPlusPlusLayer
from i2moe.backbones.layers.tokens import JointTokens
from i2moe.backbones.moepp import MoEPlusPlus, MoEPlusPlusTransformerLayer
from i2moe.backbones.switch import SwitchLayer, SwitchTransformer, SwitchTransformerLayer
from i2moe.backbones.tensor_fusion import LowRankTensorFusion
from i2moe.backbones.transformer import FusionTransformer

__all__ = [
    "MLP",
    "Conv1dEncoder",
    "Conv3dEncoder",
    "EarlyFusion",
    "FusionTransformer",
    "GRUEncoder",
    "InterpretCC",
    "JointTokens",
    "LateFusion",
    "LowRankTensorFusion",
    "MLPEncoder",
    "Maxout",
    "MaxoutEncoder",
    "MoEPlusPlus",
    "MoEPlusPlusLayer",
    "MoEPlusPlusTransformerLayer",
    "PatchEmbedding",
    "SelfAttention",
    "SwitchLayer",
    "SwitchTransformer",
    "SwitchTransformerLayer",
    "TransformerLayer",
    "gumbel_sigmoid",
]
