"""Studies: the experiments of the papers as recipes, and what must come out of them.

`catalogue` lists them, a module of each study's name has what it varies and what it measures, `lab` runs recipes through the
public stages and keeps what was measured, `findings` holds numbers against the paper's and checks the stated inequalities.
Recipes are in configs/studies/ (`recipes` beside this file), pages are drawn by `kdscale.report.study`.
"""
