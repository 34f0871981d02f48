"""What other programs take from a trained run: item vectors, an index of nearest items, a model card, programs.

item_vectors   one row per item, as Parquet and as npy
ann_index      an index of hnswlib or faiss, with its recall against exact ranking
card           what the model is, as Markdown and JSON
torch_export   encoder, state step and scores (`programs`) for a process that has torch alone
onnx_export    state step and scores as ONNX
"""
