"""Tables and plots of cells."""
