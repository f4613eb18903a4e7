"""ZS-CGAN: a conditional generator trained from nothing but the classifier (arXiv 2210.14392)."""
