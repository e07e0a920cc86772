"""How the weights and layouts that ship were made, chosen and measured. Not in the wheel."""
