"""Corruptions of images after Hendrycks & Dietterich (2019): 19 kinds, 5 severities, seeded per image.

`constants` has the names, categories and strengths; `noise`, `blur`, `weather`, `digital` have the algorithms, over a
batch at a time; `generate` makes corrupted sets, `released` reads the ones that were published.
They need `pip install 'timm-layeract[eval]'`.
"""
