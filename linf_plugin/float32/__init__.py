"""Float32 arithmetic: which nets and settings make a float32 program, and how far rounding can move its outputs."""
