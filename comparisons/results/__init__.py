"""What a run found: typed objects, the file that holds them, and the forms of files of earlier versions."""
