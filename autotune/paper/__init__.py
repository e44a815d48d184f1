"""The paper, reproduced: the experiments of "Decoding Speculative Decoding" (Yan et al., arXiv 2402.01528) run anew."""
