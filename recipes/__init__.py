"""How what ships was made, chosen and measured. Not in the wheel."""
