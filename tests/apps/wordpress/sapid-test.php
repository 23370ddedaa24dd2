<?php
/*
 * Plugin Name: Sapid Test
 * Description: A shortcode, an Ajax action, a REST route, a cron job and the classic editor on demand.
 * Version: 1.0
 */
defined('ABSPATH') || exit;
register_activation_hook(__FILE__, function () {
    update_option('sapid_test_activated', 'yes');
    wp_schedule_single_event(time(), 'sapid_test_cron');
});
register_deactivation_hook(__FILE__, fn () => delete_option('sapid_test_activated'));
add_action('sapid_test_cron', fn () => update_option('sapid_test_cron_ran', 'yes'));
add_shortcode('sapid', fn ($atts) => '<em class="sapid">from the shortcode: ' . esc_html($atts['say'] ?? '') . '</em>');
$ajax = function () {
    wp_send_json_success(['user' => wp_get_current_user()->user_login, 'said' => sanitize_text_field(wp_unslash($_POST['say'] ?? ''))]);
};
add_action('wp_ajax_sapid_test', $ajax);
add_action('wp_ajax_nopriv_sapid_test', $ajax);
add_action('rest_api_init', fn () => register_rest_route('sapid/v1', '/echo/(?P<word>\w+)', [
    'methods' => 'GET', 'permission_callback' => '__return_true',
    'callback' => fn ($r) => ['word' => $r['word'], 'twice' => $r['word'] . $r['word']]]));
add_filter('use_block_editor_for_post', fn ($use) => $use && !isset($_GET['classic']));
