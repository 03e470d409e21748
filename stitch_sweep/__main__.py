"""Entry point of `stitch-sweep`; it handles signals before it imports anything that takes time."""

from stitch_sweep.core import interrupts

interrupts.exit_at_once()


def main() -> None:
    """Run the command line; a signal while it is imported, or after it has ended, exits at once."""
    from stitch_sweep.cli.main import main as run_command

    try:
        run_command()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, KeyboardInterrupt) or interrupts.received():
            # Python remembers an interrupt inside of `exec`, and would end by SIGINT in spite of all.
            interrupts.leave(ended.code if isinstance(ended, SystemExit) else interrupts.STATUS)
        raise


if __name__ == "__main__":
    main()
