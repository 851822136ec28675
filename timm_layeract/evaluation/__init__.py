"""Measuring finished models: robustness to corruptions, attacks and shifts, significance over seeds, analyses.

Imports everything above it but `training`; matplotlib and scipy come with `pip install 'timm-layeract[eval]'`.
"""
