"""`python -m dselect_dagster` is `dselect`, for where the script is not on the path."""

from dselect_dagster.cli.app import main

if __name__ == "__main__":
    main()
