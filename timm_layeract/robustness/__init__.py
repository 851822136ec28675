"""How robust finished models are: corruptions, attacks and shifts; significance over seeds.

What is computed for pictures and tests needs `pip install 'timm-layeract[eval]'`.
"""
