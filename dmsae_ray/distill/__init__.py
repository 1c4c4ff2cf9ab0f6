"""The paper's algorithms: attribution, selection, lineage, and the loop of cycles. torch, numpy and scipy only."""
