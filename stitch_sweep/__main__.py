"""Entry point of `stitch-sweep`; installs signal handlers before any slow import."""

from stitch_sweep.core import interrupts

interrupts.exit_at_once()


def main() -> None:
    """Run the command line; a signal during imports or after the command exits at once."""
    from stitch_sweep.cli.main import main as run_command

    try:
        run_command()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, KeyboardInterrupt) or interrupts.received():
            # Python remembers an interrupt raised inside `exec` and would exit with SIGINT.
            interrupts.exit_now(ended.code if isinstance(ended, SystemExit) else interrupts.STATUS)
        raise


if __name__ == "__main__":
    main()
